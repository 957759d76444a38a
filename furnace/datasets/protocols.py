"""Recognise published partitions by their content, and find the places where the settings expect them.

Cityscapes and augmented VOC: Chen et al. (CPS, CVPR 2021); few labels: Zou et al. (PseudoSeg, ICLR 2021);
lists of image and mask: Yang et al. (UniMatch, CVPR 2023).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from furnace.datasets.splits import list_hash, read_lines
from furnace.utils.errors import UserError

FEW_LABELS = "VOC few labels"  # start of the names of these protocols
# sha256 of the sorted lines joined by newlines, as splits.list_hash computes it.
PROTOCOLS = {
    "a3257dd770f8198bf42a01a9b6cb040a1cb12a0fa89894a1cb0cf4e05d518691": "Cityscapes train, all 2975",
    "d2db0c3ea3bf90374d2765e13d715afab7f2148b356bcb9191c8e42ebedfee2f": "Cityscapes val, all 500",
    "0e1739ca2bfeb34b1a10bc43872da2212516fe674ad2b45d261d8b95c6bfa7e2": "Cityscapes 1/2, labelled",
    "86dcf77d24aeea26d98a27b0c9d9a8cbd0495133abdd959924d450ccb4394ba0": "Cityscapes 1/4, labelled",
    "615a28bd2996ec7284d6278bab89bd777d7a8426c42c34d3b46e11b95bc56cc5": "Cityscapes 1/8, labelled",
    "1ba906bde9037314f91243215fe6eeb8353fe330e0c83804b883ab0c6f9958b0": "Cityscapes 1/16, labelled",
    "1204b7036e537c37800d50b359b8f01d44564894abe8abf132b2eca911aebc2b": "Cityscapes 1/2, unlabelled",
    "26f51f79db75dedd14788554d7bca1085fb67448d7b451e78919c477d0a53e3f": "Cityscapes 1/4, unlabelled",
    "3b1ab3b00c52b429bf3bcc92e289dc9eb130692f39546a1898eabf79c5119afd": "Cityscapes 1/8, unlabelled",
    "11bc655c9258a4bf0d04518b73c23aaf99b466a2abe0da1f36ffede1b8e55aa4": "Cityscapes 1/16, unlabelled",
    "855dff350b7f447bf43cb98ea626a32e0d0b3b7c5786e03b2712a21355b635bf": "VOC augmented train, all 10582",
    "129f1fe991729b1862115b77738c938c149c1f167baa02b4b3186aea9f0d6a84": "VOC official train, all 1464",
    "5338f277730143e02973ac654d6f0fb43e6758bd22769161397c42f08c818e0b": "VOC augmented 1/2, labelled",
    "fd0e8dca3dac524cf3b8c2b8540bc67bac1fb5df93e562faf35232e90c444295": "VOC augmented 1/4, labelled",
    "c9ca45b4e688d408cd0856e9d17bdf99a8c9bd1de09d33023e578cdb9a49f1a3": "VOC augmented 1/8, labelled",
    "baa85754594fcd33c7f06d9ef173db9f70a0c32f826a2958668ee406db9f7c5a": "VOC augmented 1/16, labelled",
    "42ae9d1941af68208ea7814553f704186d78af00e167240fdce394e7ba9a21a2": "VOC augmented 1/2, unlabelled",
    "dc5e8c04738506348f5a037465aa196038ad7dcb86abb9c6b60197ce345a41df": "VOC augmented 1/4, unlabelled",
    "0ff7a0ae65046a6dc058eac0c7ed648d8aa759703c9b74c3b8ed5301b8445c8a": "VOC augmented 1/8, unlabelled",
    "c38f02fc6adc3443bbd0cb490dae009ed94c6a1915dae8cb4c3123dd573c3a35": "VOC augmented 1/16, unlabelled",
    "1c27978cdf51017454c1d23e5e93c7e509ef1bb49acd62522ea5392e632e1074": "VOC few labels 732, labelled",
    "f0e702c687e2ba711cb726ace02e2bb0b5571fd73bb3e2419441cd53c196416b": "VOC few labels 366, labelled",
    "79b959bccf7753cd70bba8d5abdb7e9c0f16df053ce458916ae19a897149136d": "VOC few labels 183, labelled",
    "124b0aab2fcd1767214bf465d8fa24dd179c3abe99951a063a92d11c48663987": "VOC few labels 92, labelled",
    "d65246e0d2ff2c9fe54407179b4e3ede14bc525f6683f6e712c8d2adf3ac1f68": "VOC few labels 732, unlabelled",
    "df65d19492044d0a8fa7f812d996c67a259f425463c65c09f5c191854cea531c": "VOC few labels 366, unlabelled",
    "c750fb758a95ae5516cdb6253a806edf259bbf007d24817037f28c540d2d6cfe": "VOC few labels 183, unlabelled",
    "22be7051e35a974eb3c87790f4b7907a63feb115114b2e3954695be2a30c946c": "VOC few labels 92, unlabelled",
}
# The same for lists of UniMatch (Yang et al., CVPR 2023) and its second version, by their first 24 digits.
UNIMATCH = {
    "0137c6c06e3c258a428df899": "UniMatch ADE20K 1/16, labelled",
    "3aff20d3bdbeee89a1c7d131": "UniMatch ADE20K 1/16, unlabelled",
    "f01046bf1328fa0c693161ca": "UniMatch ADE20K 1/2, labelled",
    "866c9bf9b5be186d836a310f": "UniMatch ADE20K 1/2, unlabelled",
    "f13ce73b8c69a30af49ed11a": "UniMatch ADE20K 1/32, labelled",
    "c5f220eeee6ddf24de4af647": "UniMatch ADE20K 1/32, unlabelled",
    "2698894e174f7f59c66f3bba": "UniMatch ADE20K 1/4, labelled",
    "8a1899c6012429da4819ee8f": "UniMatch ADE20K 1/4, unlabelled",
    "49233482b02c2646b0d10baa": "UniMatch ADE20K 1/64, labelled",
    "033ddd2b44bbde48629e68c7": "UniMatch ADE20K 1/64, unlabelled",
    "83406bf77c54aeecfa0c80bd": "UniMatch ADE20K 1/8, labelled",
    "19c211eb016ad0671155905c": "UniMatch ADE20K 1/8, unlabelled",
    "332d96b1dd907d547ba4306a": "UniMatch ADE20K all, labelled",
    "e30a05eab1c9fe423c059d85": "UniMatch ADE20K val",
    "6fe6f6007eb248abafdd24b8": "UniMatch Cityscapes 1/16, labelled",
    "aac85fa3c016292924cd8d00": "UniMatch Cityscapes 1/16, unlabelled",
    "f6337c721806363be939fb02": "UniMatch Cityscapes 1/2, labelled",
    "64145ffa3ae212b802a271ca": "UniMatch Cityscapes 1/2, unlabelled",
    "d2d9db5ad1b7862116766098": "UniMatch Cityscapes 1/30, labelled",
    "817988d2eb6d088ba3f7cea6": "UniMatch Cityscapes 1/30, unlabelled",
    "3c40618fd49cdde712a8e149": "UniMatch Cityscapes 1/4, labelled",
    "b0b861aa30ea1bdc0d9d0f08": "UniMatch Cityscapes 1/4, unlabelled",
    "a74f2a485bdb7f2e94425ff3": "UniMatch Cityscapes 1/8, labelled",
    "843cb9d07b6dbe7ef0b6574d": "UniMatch Cityscapes 1/8, unlabelled",
    "c90f05cc09da1ed0c150e772": "UniMatch Cityscapes all, labelled",
    "b31e43285d45cd2f0d476743": "UniMatch Cityscapes all, unlabelled",
    "c1ee746e538d93ebc54efb43": "UniMatch Cityscapes val",
    "8b375e157d17f16cc3aac6f3": "UniMatch COCO 1/128, labelled",
    "aac96fad8366471d55837253": "UniMatch COCO 1/256, labelled",
    "2c068b4537885d1b65e37dfa": "UniMatch COCO 1/32, labelled",
    "dcfbdd4e7d03aeacdf3cb6e5": "UniMatch COCO 1/512, labelled",
    "4fa954641d1e59e9d3751ff3": "UniMatch COCO 1/64, labelled",
    "5a296a8b638114611e81c3b2": "UniMatch COCO val",
    "b20486876df309c57c8230e9": "UniMatch Pascal 1464, labelled",
    "f685c6de4ab333818cf38499": "UniMatch Pascal 1464, unlabelled",
    "af628f2b0b7b0acc12510175": "UniMatch Pascal 183, labelled",
    "a8e7ec9ab6b3486d0abdb9ab": "UniMatch Pascal 183, unlabelled",
    "09d1a13cffea01b15eda5e5b": "UniMatch Pascal 366, labelled",
    "d17af80f8c0b054e512e0d4e": "UniMatch Pascal 366, unlabelled",
    "0ded3f34a186fe42329afffb": "UniMatch Pascal 732, labelled",
    "44ebf57774db6931bbdba334": "UniMatch Pascal 732, unlabelled",
    "86834a3e2c861cce8c6b0406": "UniMatch Pascal 92, labelled",
    "f61ae25e4713e89233a63f22": "UniMatch Pascal 92, unlabelled",
    "75a004bf45a3c4e14852b9ea": "UniMatch Pascal all, labelled",
    "15b58c7d94169a898682808d": "UniMatch Pascal val",
}
UNIMATCH_DIGITS = 24
LISTS_SHOWN = 3
SUBSETS = r"(?:subset_train[^/]*/)?"  # folder of CPS's lists, if it was kept
# Our names for UniMatch's lists, such as `1_8/labeled.txt`.
UNIMATCH_DESTINATIONS = {
    r"1_(\d+)/((?:un)?labeled)\.txt": r"subset_train/train_\2_1-\1.txt",
    r"all/labeled\.txt": "train.txt",
    r"val\.txt": "val.txt",
}


def recognize(source: str | Path) -> str | None:
    """Name of the published protocol of a list, in any order and with any line ends; None for other lists.

    Raises:
        UserError: the list is missing, is not text, or is empty.
    """
    found = list_hash(source)
    return PROTOCOLS.get(found) or UNIMATCH.get(found[:UNIMATCH_DIGITS])


@dataclass(frozen=True)
class Layout:
    """Places of a data set's partition lists.

    Args:
        destinations: path relative to the data set's folder, by a pattern for the published file's name and folder;
            the path refers to the pattern's groups as in `re.Match.expand`.
        paths: image and label of a line, relative to the data set's folder.
        everything: list of all training images, to complete labelled lists that have no unlabelled one.
    """

    destinations: dict[str, str]
    paths: Callable[[str], list[str]]
    everything: str | None = None


@dataclass(frozen=True)
class Partition:
    """A list in a folder of partitions: its file, destination, lines and published protocol."""

    source: Path
    destination: str
    lines: list[str]
    protocol: str | None


def find_partitions(folder: Path, layout: Layout) -> list[Partition]:
    """The lists in `folder` and its sub-folders that the layout knows. Raises UserError if there are none."""
    found: dict[str, Partition] = {}
    for source in sorted([*folder.glob("*.txt"), *folder.glob("*/*.txt")]):
        for pattern, template in layout.destinations.items():
            if match := re.fullmatch(pattern, source.relative_to(folder).as_posix()):
                destination = match.expand(template)
                if destination in found:
                    raise UserError(f"{source} and {found[destination].source}: both are {destination}; remove one")
                lines = [line for _, line in read_lines(source)]
                found[destination] = Partition(source, destination, lines, recognize(source))
    if not found:
        raise UserError(f"{folder}: contains no partition; see docs/lists.md for the folders and names of the lists")
    return list(found.values())


def with_rests(partitions: list[Partition], everything: list[str]) -> list[Partition]:
    """The partitions, with unlabelled lists added for labelled lists without one: all other lines of `everything`.

    Raises:
        UserError: such a labelled list has lines that `everything` lacks.
    """
    there = {partition.destination for partition in partitions}
    rests = []
    for partition in partitions:
        destination = unlabeled_partner(partition.destination)
        if destination not in there:
            labeled = set(partition.lines)
            if strange := labeled - set(everything):
                raise UserError(
                    f"{partition.source}: {len(strange)} lines are not in the list of all training images "
                    f"({min(strange)}), from which its unlabelled list is made"
                )
            lines = [line for line in everything if line not in labeled]
            rests.append(Partition(partition.source, destination, lines, "the rest of all training images"))
    return [*partitions, *rests]


def unlabeled_partner(destination: str) -> str:
    """Name of the unlabelled list for a labelled one; names of other lists do not change."""
    return destination.replace("_labeled", "_unlabeled")


def check_partition(partition: Partition, layout: Layout, exists: Callable[[str], bool]) -> None:
    """Raise UserError unless every image and label that the list names `exists`."""
    missing = [path for line in partition.lines for path in layout.paths(line) if not exists(path)]
    if missing:
        shown = ", ".join(missing[:LISTS_SHOWN]) + (", ..." if len(missing) > LISTS_SHOWN else "")
        raise UserError(
            f"{partition.source}: {len(missing)} files of the list are not in the prepared data ({shown}); "
            "prepare the data first, or check if the list is for another data set"
        )


def shared_images(partitions: list[Partition]) -> list[str]:
    """One line for each labelled list that shares images with its unlabelled partner."""
    lines_of = {partition.destination: set(partition.lines) for partition in partitions}
    notes = []
    for name, lines in lines_of.items():
        shared = lines & lines_of.get(unlabeled_partner(name), set()) if "_labeled" in name else set()
        if shared:
            notes.append(f"{name} shares {len(shared)} with its unlabelled list ({min(shared)})")
    return notes

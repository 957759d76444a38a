// Viewer: one slider moves the prediction over the image (0 to 100), then the ground truth over it (100 to 200).
const byId = id => document.getElementById(id);
const stage = byId("stage"), figures = [...document.querySelectorAll(".example")];

function wipe() {
  const value = +byId("wipe").value, later = value > 100, at = later ? value - 100 : value;
  const left = `inset(0 ${100 - at}% 0 0)`, right = `inset(0 0 0 ${at}%)`;
  stage.querySelector(".prediction").style.clipPath = later ? right : left;
  stage.querySelector(".errors").style.clipPath = later ? right : left;
  stage.querySelector(".truth").style.clipPath = later ? left : "inset(0 100% 0 0)";
  stage.style.setProperty("--at", `${at}%`);
  const names = later ? ["ground truth", "prediction"] : ["prediction", "image"];
  stage.querySelector(".tag.left").textContent = at > 0 ? names[0] : "";
  stage.querySelector(".tag.right").textContent = at < 100 ? names[1] : "";
  byId("wipe").setAttribute("aria-valuetext",
    at === 0 ? names[1] : at === 100 ? names[0] : `${at} % ${names[0]}, the rest ${names[1]}`);
}

function show(figure) {
  for (const picture of figure.querySelectorAll("img")) {
    const shown = stage.querySelector(`img.${picture.className}`);
    shown.src = picture.src;
    shown.alt = picture.alt;
  }
  stage.style.setProperty("--ratio", figure.dataset.ratio);
  byId("caption").textContent = figure.querySelector("figcaption").textContent;
  for (const other of figures) other.querySelector("button").ariaPressed = String(other === figure);
}

// Gallery: figures with the chosen class or error, sorted by it, or by their scores if nothing is chosen.
function filter(jump = true) {
  const wanted = byId("class").value, error = byId("error").value, sign = byId("order").value === "worst" ? 1 : -1;
  const has = figure => (!wanted || wanted in JSON.parse(figure.dataset.iou)) && (!error || error in JSON.parse(figure.dataset.errors));
  const score = figure => {
    if (error) return -JSON.parse(figure.dataset.errors)[error] || 0;
    return wanted ? JSON.parse(figure.dataset.iou)[wanted] : +figure.dataset.score;
  };
  const fitting = figures.filter(has).sort((a, b) => sign * (score(a) - score(b)));
  for (const figure of figures) figure.classList.toggle("hidden", !fitting.includes(figure));
  byId("examples").append(...fitting);
  byId("examples").scrollLeft = 0;
  byId("found").textContent = fitting.length ? `${fitting.length} of ${figures.length} images` : "no matching image";
  if (jump && fitting.length) show(fitting[0]);
}

function chooseError(key, name) {
  const select = byId("error");
  if (![...select.options].some(option => option.value === key)) select.add(new Option(name, key));
  byId("class").value = "";
  select.value = key;
  filter();
  byId("first").scrollIntoView({ block: "start" });
}

if (stage) {
  byId("wipe").addEventListener("input", wipe);
  for (const button of document.querySelectorAll(".stops button"))
    button.addEventListener("click", () => { byId("wipe").value = button.dataset.to; wipe(); });
  const follow = event => {
    const box = stage.getBoundingClientRect(), later = +byId("wipe").value > 100;
    const at = Math.min(Math.max((100 * (event.clientX - box.left)) / box.width, later ? 1 : 0), 100);
    byId("wipe").value = at + (later ? 100 : 0);
    wipe();
  };
  stage.addEventListener("pointerdown", event => { stage.setPointerCapture(event.pointerId); follow(event); });
  stage.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
  byId("strength").addEventListener("input", () => stage.style.setProperty("--strength", byId("strength").value / 100));
  byId("mark").addEventListener("change", () => stage.classList.toggle("marked", byId("mark").checked));
  for (const figure of figures) figure.querySelector("button").addEventListener("click", () => show(figure));
  for (const id of ["class", "error", "order"]) byId(id).addEventListener("change", () => filter());
  filter();
  wipe();
}

// Confusion matrices: describe the cell under the pointer; a click on an error shows its images.
for (const table of document.querySelectorAll("table.matrix")) {
  const words = table.closest(".scroll").nextElementSibling;
  table.addEventListener("pointerover", event => { words.textContent = event.target.title || "\u00a0"; });
  table.addEventListener("click", event => {
    if (stage && event.target.matches(".miss")) chooseError(event.target.dataset.error, event.target.title.split(": ")[0]);
  });
}

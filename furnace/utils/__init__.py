"""Settings, errors and pictures, used by every floor above."""

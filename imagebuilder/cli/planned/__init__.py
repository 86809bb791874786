"""The views of `piimg plan`: overview, list of all entries, one file, drawing, differences."""

"""The training half of each task: its loss and what a run of it reports. The serving half is fmx/tasks/."""

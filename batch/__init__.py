"""Many videos from a list of jobs, on one machine or many: see README.md."""

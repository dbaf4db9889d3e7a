"""A small Wan that makes real video on a CPU in seconds: its world, its words, its weights, and how they were made."""

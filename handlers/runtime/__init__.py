"""The inside of an executor process: runs the jobs that the courier orders, with no credentials and no network."""

"""Where things are kept: the object store, the job tables, the search. The only room that speaks SQL or S3."""

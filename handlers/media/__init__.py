"""Reading media that nobody vouches for: by content, under limits, with a sentence for whatever is wrong."""

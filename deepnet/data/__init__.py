"""Where images come from: data sets of a reader's own, in memory or read as they are needed."""

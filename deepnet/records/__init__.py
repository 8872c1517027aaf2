"""Records: the writing side, the code that they were made from, and their way into the evidence."""

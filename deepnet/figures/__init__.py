"""What the records show, as figures by number and as sentences."""

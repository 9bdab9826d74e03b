"""What there is to show of one recording and what a network says of it: as a page for a browser, or as a picture."""

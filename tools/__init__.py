"""Programs for the development of this project; the Makefile calls them."""

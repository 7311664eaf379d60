"""One image in, one reading out: the door that command line, web and PACS share."""

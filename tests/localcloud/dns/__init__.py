"""A name server that answers from the zones and reverse names of the local cloud."""

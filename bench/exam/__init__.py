"""The exam of the embedded model: what its pictures show, read from pixels alone."""

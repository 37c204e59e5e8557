"""One folder an idea: Haiku modules that know nothing of each other and stand on `primitives`."""

"""Events: what happened that somebody asked to be told of. A bounded memory per process, and a fan-out to watchers."""

"""The arithmetic of methods: ascent, divergences, noise, random streams."""

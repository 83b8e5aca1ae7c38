"""The heads, one file each: a module with a `HEAD`, which `heads.registry` finds by itself."""

"""The commands, one thin file each: flags are parsed, runs/ or study/ called, results printed."""

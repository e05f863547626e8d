"""Questions about keyframes of the drawn world, with their true answers."""

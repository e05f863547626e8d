"""Training the tiny LEO-MINI on the drawn world, stage by stage."""

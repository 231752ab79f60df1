"""Videos on disk -> uint8 clip views. numpy only: worker processes stay small and never touch an accelerator."""

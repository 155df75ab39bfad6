"""At which stage of a detector objects are lost, and why."""

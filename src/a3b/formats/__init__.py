"""Files that hold models: containers (safetensors), directories of them, and number formats."""

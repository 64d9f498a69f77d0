"""Does the block sharpen borders? See docs/quality.md; scenes, network, training, metrics, a file each."""

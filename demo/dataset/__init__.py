"""The drawn world as a dataset in nuScenes format: tables, camera images, maps and questions."""

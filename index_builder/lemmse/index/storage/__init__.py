"""What an index is on disk: folders and versions, manifest, Zarr arrays, shards and FAISS inverted lists."""

"""From text to batches: files -> corpus of shards -> token shards -> packed rows -> a seeded order of batches."""

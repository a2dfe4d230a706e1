"""The optimizer: Muon for the blocks' matrices, AdamW for embedding and head."""

from nanochat_cli.core.optim.muon_adamw import MuonAdamW, OptimSettings, build

__all__ = ["MuonAdamW", "OptimSettings", "build"]

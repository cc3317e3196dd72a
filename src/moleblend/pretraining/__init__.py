"""`moleblend pretrain`: configuration, batches, trainer, callback, validation, saved states."""

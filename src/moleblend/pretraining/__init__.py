"""`moleblend pretrain`: configuration, batches, trainer, validation, log, saved states, dry run."""

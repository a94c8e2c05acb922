"""The distillation methods: one file each, found by being here."""

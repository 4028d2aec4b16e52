"""From a recipe to tokenizer, processor, model and LoRA."""

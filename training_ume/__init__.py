"""What trains and measures a UME model and stays at home: data, answers, collator, trainer, recipes, results."""

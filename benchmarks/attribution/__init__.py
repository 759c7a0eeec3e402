"""How well each attribution method tells who influenced an answer: truth by retraining without them."""

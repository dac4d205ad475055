"""The results of a model: predictions, scores, pictures, costs, and reports of them."""

"""What comes out of a model: predictions, scores, pictures, costs."""

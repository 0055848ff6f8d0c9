"""Using a trained model: the order that it gives to the candidates of a first stage."""

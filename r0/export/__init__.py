"""Trained models for use elsewhere: sequence classifiers, ONNX, and the Hugging Face Hub."""

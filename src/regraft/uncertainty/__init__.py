"""What a model's answers are worth: prediction sets, intervals, and how familiar an image is."""

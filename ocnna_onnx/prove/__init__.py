"""Original, plan and smaller model in; verdict and error out."""

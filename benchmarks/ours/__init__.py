"""Our side of the benchmarks that train: recipes and the function that times them."""

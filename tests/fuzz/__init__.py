"""A fuzzer: files that are mutated at random, each read by a command in a process of its own."""

"""The station: cards are put into its slots, and each is written as it comes."""

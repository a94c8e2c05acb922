"""What leaves the store for people without this project: trained students."""

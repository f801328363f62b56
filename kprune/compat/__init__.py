"""What speaks to other libraries, in their words."""

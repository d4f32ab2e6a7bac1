"""Customer service: a question is answered out of an FAQ, with its source and how sure that is, or handed over to a person."""

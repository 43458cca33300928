"""Implementations of the operators; `dispatch` chooses among them."""

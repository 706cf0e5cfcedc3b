"""Checks of a training before its first step: do student, teachers and rows fit each other?"""

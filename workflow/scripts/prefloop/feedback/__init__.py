"""Sources of feedback: functions, reward models, judges, and a data set's own preferences."""

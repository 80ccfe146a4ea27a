-- What was done to one object is found without walking through its cluster's whole log.
CREATE INDEX audit_log_object ON audit_log (object, id);

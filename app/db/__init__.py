"""The only way to the database.

setup      Database: migrations, roles, clusters, secrets of the deployment
migrate    numbered migrations under an advisory lock
connect    start-up parameters of every connection: role, scope, deadlines
errors     SQLSTATE and driver errors to app.errors
base       pool and transactions of one cluster; reads devices registering admin requests: its parts
admin      users auth_keys device_admin: what an administrator does
scoped     Scoped: all of them, the data-access object of one cluster
requests   RequestDesk: where operators ask; and the owner's part
lease      Lease: who owns a cluster
listen     Listener: wake-ups that heal themselves
"""
